# The instruction sets that kernels are compiled for, PE_INSTRUCTION_SETS, and the flags of each, PE_FLAGS_<set>.
set(PE_INSTRUCTION_SETS baseline)
set(PE_FLAGS_baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
    list(APPEND PE_INSTRUCTION_SETS avx2 avx512)
    set(PE_FLAGS_avx2 -mavx2 -mfma -mf16c)
    set(PE_FLAGS_avx512 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # GCC's own header of the intrinsics sets these off (GCC bug 105593).
        list(APPEND PE_FLAGS_avx512 -Wno-maybe-uninitialized -Wno-uninitialized)
    endif()
endif()
