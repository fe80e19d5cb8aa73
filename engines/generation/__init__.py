"""Token loops that several adapters share: greedy decoding, sampling and beam search."""
