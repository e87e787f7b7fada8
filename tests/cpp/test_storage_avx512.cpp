// test_storage.cpp for AVX-512, where it is compiled with the flags for that.
#ifdef __AVX512F__
#define PE_ISA avx512
#endif
#include "test_storage.cpp"
