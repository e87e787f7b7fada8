# Finds the C headers of ONNX Runtime, which no wheel of it has: scripts/onnxruntime_headers.sh gets them. Nothing
# links to its library: that is found at run time, and here only for tests.
#
# Defines the target PeOnnxRuntime::headers, or sets PE_ONNXRUNTIME_PROBLEM. Sets PE_ONNXRUNTIME_LIBRARY, empty where
# there is none.
set(PE_ONNXRUNTIME_PROBLEM "")
set(pe_hints)
if(Python_EXECUTABLE)
    # An environment that scripts/make_environment.sh made has the headers beside Python's own.
    get_filename_component(pe_environment "${Python_EXECUTABLE}" DIRECTORY)
    get_filename_component(pe_environment "${pe_environment}" DIRECTORY)
    list(APPEND pe_hints "${pe_environment}/include")
endif()
find_path(ONNXRUNTIME_INCLUDE_DIR onnxruntime_c_api.h
          HINTS ${pe_hints} PATH_SUFFIXES onnxruntime onnxruntime/core/session
          DOC "The folder of onnxruntime_c_api.h")

if(NOT ONNXRUNTIME_INCLUDE_DIR)
    set(PE_ONNXRUNTIME_PROBLEM "no headers found")
elseif(NOT EXISTS "${ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h")
    set(PE_ONNXRUNTIME_PROBLEM "${ONNXRUNTIME_INCLUDE_DIR}: expected a folder with onnxruntime_c_api.h")
else()
    file(STRINGS "${ONNXRUNTIME_INCLUDE_DIR}/onnxruntime_c_api.h" pe_line REGEX "define ORT_API_VERSION ")
    string(REGEX REPLACE "[^0-9]" "" pe_version "${pe_line}")
    if(NOT pe_version GREATER_EQUAL 18)
        string(CONCAT PE_ONNXRUNTIME_PROBLEM "${ONNXRUNTIME_INCLUDE_DIR}: expected headers of ONNX Runtime 1.18 or "
                                             "newer, got those of 1.${pe_version}")
    endif()
endif()
if(PE_ONNXRUNTIME_PROBLEM)
    if(PE_ORT STREQUAL "ON")
        message(FATAL_ERROR "ONNX Runtime operator library: ${PE_ONNXRUNTIME_PROBLEM}. Name the folder of the headers "
                            "in ONNXRUNTIME_INCLUDE_DIR (scripts/onnxruntime_headers.sh FOLDER gets them), or build "
                            "without the library: PE_ORT=OFF.")
    endif()
    message(STATUS "ONNX Runtime operator library: not built: ${PE_ONNXRUNTIME_PROBLEM}")
    return()
endif()
message(STATUS "ONNX Runtime: headers of 1.${pe_version} in ${ONNXRUNTIME_INCLUDE_DIR}")
add_library(PeOnnxRuntime::headers INTERFACE IMPORTED)
target_include_directories(PeOnnxRuntime::headers SYSTEM INTERFACE "${ONNXRUNTIME_INCLUDE_DIR}")

# A wheel has the library under a name with the version, which changes.
set(PE_ONNXRUNTIME_LIBRARY "")
if(Python_EXECUTABLE)
    file(GLOB pe_libraries "${pe_environment}/lib/python*/site-packages/onnxruntime/capi/libonnxruntime.so*")
    if(pe_libraries)
        list(GET pe_libraries 0 PE_ONNXRUNTIME_LIBRARY)
    endif()
endif()
