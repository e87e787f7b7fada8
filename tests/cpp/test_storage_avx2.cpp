// test_storage.cpp for AVX2, where it is compiled with the flags for that.
#ifdef __AVX2__
#define PE_ISA avx2
#endif
#include "test_storage.cpp"
