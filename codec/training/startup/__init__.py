"""What a run does before its first step: weights, codebooks, precision, memory."""
