"""Tasks that a user reveals bit by bit to an assistant whose answers are checked."""
