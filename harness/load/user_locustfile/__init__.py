"""Load by a locustfile that the user wrote, with its User classes."""
