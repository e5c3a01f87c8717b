"""What a trained model can do: loss, accuracy, accuracy by slice."""
