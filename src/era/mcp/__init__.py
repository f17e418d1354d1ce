"""The MCP door: the service as tools and resources for agents."""
