"""The gated delta rule as functions on tensors: the definition, and forms that are tested against it."""
