# Whether kernels are built for CUDA: PE_CUDA_FOUND, else PE_CUDA_PROBLEM says why not. The toolkit decides, never
# whether this machine has a GPU.
set(PE_CUDA_FOUND FALSE)
set(PE_CUDA_PROBLEM "")
if(PE_CUDA STREQUAL "OFF")
    set(PE_CUDA_PROBLEM "PE_CUDA=OFF")
elseif(PE_SANITIZE)
    set(PE_CUDA_PROBLEM "with PE_SANITIZE, tests run the kernels as plain C++ only")
else()
    find_package(CUDAToolkit QUIET)
    if(NOT CUDAToolkit_FOUND OR NOT CUDAToolkit_NVCC_EXECUTABLE)
        set(PE_CUDA_PROBLEM "no CUDA toolkit with nvcc found")
    elseif(CUDAToolkit_VERSION VERSION_LESS 11.1)
        set(PE_CUDA_PROBLEM "expected CUDA 11.1 or newer, got ${CUDAToolkit_VERSION}")
    elseif(NOT TARGET CUDA::cudart_static)
        set(PE_CUDA_PROBLEM "CUDA ${CUDAToolkit_VERSION} has no static runtime library")
    endif()
endif()

# Ampere and newer: older ones have neither asynchronous copies nor these products. Code for each generation that
# the toolkit knows, and code that later ones compile when they load it.
set(PE_CUDA_ARCHITECTURES "" CACHE STRING "As CMAKE_CUDA_ARCHITECTURES; empty: by the version of the toolkit")
set(PE_CUDA_TARGETS "${PE_CUDA_ARCHITECTURES}")
if(NOT PE_CUDA_PROBLEM AND NOT PE_CUDA_TARGETS)
    if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.8)
        set(PE_CUDA_TARGETS 80-real 90-real 100-real 100-virtual)
    elseif(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 11.8)
        set(PE_CUDA_TARGETS 80-real 90-real 90-virtual)
    else()
        set(PE_CUDA_TARGETS 80-real 80-virtual)
    endif()
endif()

# A toolkit may be there that cannot compile: with a host compiler that is too new for it, for instance. The check
# reads its compiler and architectures from the environment only.
if(NOT PE_CUDA_PROBLEM)
    if(NOT CMAKE_CUDA_COMPILER AND "$ENV{CUDACXX}" STREQUAL "")
        set(ENV{CUDACXX} "${CUDAToolkit_NVCC_EXECUTABLE}")
    endif()
    set(ENV{CUDAARCHS} "${PE_CUDA_TARGETS}")
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
        unset(CMAKE_CUDA_COMPILER CACHE)  # else it would not be looked for again
        string(CONCAT PE_CUDA_PROBLEM "nvcc of CUDA ${CUDAToolkit_VERSION} cannot compile for ${PE_CUDA_TARGETS}; its "
                                      "messages are in ${PROJECT_BINARY_DIR}/CMakeFiles")
    endif()
endif()

if(PE_CUDA_PROBLEM)
    if(PE_CUDA STREQUAL "ON")
        message(FATAL_ERROR "PE_CUDA=ON: ${PE_CUDA_PROBLEM}. Install a toolkit, name its folder in CUDAToolkit_ROOT, "
                            "or build without: PE_CUDA=OFF.")
    endif()
    message(STATUS "CUDA kernels: not built: ${PE_CUDA_PROBLEM}")
    return()
endif()
set(PE_CUDA_FOUND TRUE)
set(CMAKE_CUDA_ARCHITECTURES ${PE_CUDA_TARGETS})
enable_language(CUDA)
# Targets name the runtime that they link to: CMake's own choice asks for a library of device code too.
set(CMAKE_CUDA_RUNTIME_LIBRARY None)
message(STATUS "CUDA kernels: with CUDA ${CUDAToolkit_VERSION} for ${PE_CUDA_TARGETS}")
