"""Draw the machine, and the way of one authorization through it, in Mermaid's language or as a picture."""
