"""How much the user's turns read like those of people."""
