"""The laboratory: what makes this project's claims, and nothing that a user of a network needs."""
