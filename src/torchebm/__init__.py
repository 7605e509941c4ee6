"""Learn energy-based models from data and sample them: p(x) = exp(-E(x)) / Z, in PyTorch."""
