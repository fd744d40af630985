"""Encoders, decoders and the codec that joins them."""
