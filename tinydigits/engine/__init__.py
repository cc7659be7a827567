"""The engine in C and WebAssembly, and the export of networks to it."""
