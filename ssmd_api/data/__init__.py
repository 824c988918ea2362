"""Questions about captured data: trades, prices, volume, events, coverage. REST, GraphQL and MCP ask them alike."""
