"""Loading with the user classes of a locustfile that the user wrote."""
