# Finds torch without find_package(Torch), which with a CUDA build of torch asks for nvcc. The operator library
# uses the stable C interface only, so headers, libtorch_cpu and libc10 are all that it takes.
#
# Sets PE_TORCH_FOUND and, if so, defines the target PeTorch::torch.
set(PE_TORCH_FOUND FALSE)
if(PE_TORCH STREQUAL "OFF")
    return()
endif()

set(pe_torch_root "${PE_TORCH_ROOT}")
if(NOT pe_torch_root)
    find_package(Python COMPONENTS Interpreter)
    if(Python_Interpreter_FOUND)
        execute_process(COMMAND ${Python_EXECUTABLE} "${CMAKE_CURRENT_LIST_DIR}/find_torch.py"
                        OUTPUT_VARIABLE pe_torch_root OUTPUT_STRIP_TRAILING_WHITESPACE)
    endif()
endif()

set(pe_torch_problem "")
if(NOT pe_torch_root)
    set(pe_torch_problem "torch is not installed for ${Python_EXECUTABLE}")
elseif(NOT EXISTS "${pe_torch_root}/include/torch/csrc/stable/library.h")
    set(pe_torch_problem "${pe_torch_root}: expected the folder of torch 2.11 or newer, with include/ and lib/")
else()
    # The version that the headers say: a C++ distribution has no version.py.
    file(STRINGS "${pe_torch_root}/include/torch/headeronly/version.h" pe_lines
         REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    string(REGEX REPLACE "[^0-9;]" "" pe_lines "${pe_lines}")
    list(JOIN pe_lines "." pe_torch_version)
    if(pe_torch_version VERSION_LESS 2.11)
        set(pe_torch_problem "${pe_torch_root}: expected torch 2.11 or newer, got ${pe_torch_version}")
    endif()
endif()
if(pe_torch_problem)
    if(PE_TORCH STREQUAL "ON")
        message(FATAL_ERROR "PyTorch operator library: ${pe_torch_problem}. Install torch first, name its folder in "
                            "PE_TORCH_ROOT, or build without the library: PE_TORCH=OFF.")
    endif()
    message(STATUS "PyTorch operator library: not built: ${pe_torch_problem}")
    return()
endif()

set(PE_TORCH_FOUND TRUE)
message(STATUS "PyTorch operator library: with torch ${pe_torch_version} in ${pe_torch_root}")
set(PE_TORCH_LIBRARY_DIR "${pe_torch_root}/lib")
add_library(PeTorch::torch INTERFACE IMPORTED)
target_include_directories(PeTorch::torch SYSTEM INTERFACE "${pe_torch_root}/include")
target_compile_definitions(PeTorch::torch INTERFACE TORCH_TARGET_VERSION=0x020b000000000000)
target_link_libraries(PeTorch::torch INTERFACE "${PE_TORCH_LIBRARY_DIR}/libtorch_cpu.so"
                                               "${PE_TORCH_LIBRARY_DIR}/libc10.so")
