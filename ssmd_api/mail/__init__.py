"""What the API itself mails: the daily audit."""
