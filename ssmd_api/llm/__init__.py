"""The proxy to a language model: guardrails, upstreams, accounting."""
