"""A whole fleet on one machine: the playground of the demo, the tests and the benchmarks."""
