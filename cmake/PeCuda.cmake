# Whether kernels are built for CUDA: PE_CUDA_FOUND. The toolkit decides, never whether this machine has a GPU.
# The language is enabled only where there is something to compile: that alone takes seconds.
set(PE_CUDA_FOUND FALSE)
if(NOT PE_CUDA STREQUAL "OFF" AND (PE_CUDA_SOURCES OR PE_CUDA STREQUAL "ON"))
    find_package(CUDAToolkit QUIET)
    if(CUDAToolkit_FOUND AND CUDAToolkit_NVCC_EXECUTABLE)
        set(PE_CUDA_FOUND TRUE)
    elseif(PE_CUDA STREQUAL "ON")
        message(FATAL_ERROR "PE_CUDA=ON: no CUDA toolkit with nvcc found. Install one, name its folder in "
                            "CUDAToolkit_ROOT, or build without: PE_CUDA=OFF.")
    endif()
endif()
if(PE_CUDA_FOUND AND PE_CUDA_SOURCES)
    set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}")
    enable_language(CUDA)
endif()
