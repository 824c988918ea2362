"""Questions to the security master and their answers, the same for REST, GraphQL and MCP."""
