# Two components: "package", what the Python package holds, into the prefix itself; "development", for C++.
include(CMakePackageConfigHelpers)

set(pe_config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/pe_runtime")
set(pe_installed pe_kernels)
if(TARGET pe_torch)
    list(APPEND pe_installed pe_torch)
    install(TARGETS pe_torch LIBRARY DESTINATION . COMPONENT package EXCLUDE_FROM_ALL)
endif()
if(TARGET pe_torch_cuda)
    list(APPEND pe_installed pe_torch_cuda)
    install(TARGETS pe_torch_cuda LIBRARY DESTINATION . COMPONENT package EXCLUDE_FROM_ALL)
endif()
if(TARGET pe_ort)
    install(TARGETS pe_ort LIBRARY DESTINATION . COMPONENT package EXCLUDE_FROM_ALL)
    install(TARGETS pe_ort LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development)
endif()
if(TARGET pe_c)
    list(APPEND pe_installed pe_c)
endif()
if(TARGET pe_gate)
    install(TARGETS pe_gate RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT development)
endif()
if(TARGET _kernels)
    install(TARGETS _kernels LIBRARY DESTINATION . COMPONENT package EXCLUDE_FROM_ALL)
endif()

install(TARGETS ${pe_installed} EXPORT pe_runtime
        ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development
        LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development)
install(EXPORT pe_runtime NAMESPACE pe_runtime:: FILE pe_runtimeTargets.cmake
        DESTINATION "${pe_config_dir}" COMPONENT development)
# On its own: linking to it takes a CUDA toolkit, which a program without it need not have.
if(TARGET pe_kernels_cuda)
    install(TARGETS pe_kernels_cuda EXPORT pe_runtime_cuda
            ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT development)
    install(EXPORT pe_runtime_cuda NAMESPACE pe_runtime:: FILE pe_runtimeCudaTargets.cmake
            DESTINATION "${pe_config_dir}" COMPONENT development)
endif()
configure_package_config_file(cmake/pe_runtimeConfig.cmake.in pe_runtimeConfig.cmake
                              INSTALL_DESTINATION "${pe_config_dir}")
write_basic_package_version_file(pe_runtimeConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/pe_runtimeConfig.cmake" "${PROJECT_BINARY_DIR}/pe_runtimeConfigVersion.cmake"
        DESTINATION "${pe_config_dir}" COMPONENT development)
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" "${PROJECT_SOURCE_DIR}/NOTICE" DESTINATION "${CMAKE_INSTALL_DOCDIR}"
        COMPONENT development)
