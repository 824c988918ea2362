"""From a WebSocket frame to archived lines and back, without changing a byte of what the venue wrote."""
