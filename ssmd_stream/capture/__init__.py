"""From exchange sockets to JetStream: sessions, connections, publisher, connector."""
