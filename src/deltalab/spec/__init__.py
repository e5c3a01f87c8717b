"""What can be chosen: frozen dataclasses, one module per configuration group. No torch here."""
