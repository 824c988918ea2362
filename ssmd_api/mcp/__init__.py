"""MCP: the REST interface as tools for agents, over stdio and HTTP; the SDK is imported where it is used (0.7 s)."""
