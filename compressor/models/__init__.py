"""The families of architectures that the compiler knows: teachers' families are students' search spaces."""
