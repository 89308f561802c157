"""The wire: what is believed, what is understood, what is answered."""
