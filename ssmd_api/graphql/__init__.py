"""GraphQL over the same functions as REST."""
