"""Before the first step: initial weights and codebooks, the bfloat16 check, memory settings."""
