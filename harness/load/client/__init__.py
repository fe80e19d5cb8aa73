"""The sending side inside a load process: connections, timers and raw records, under gevent."""
