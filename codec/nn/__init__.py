"""Building blocks that stream: state, causal convolutions and the layers made of them."""
