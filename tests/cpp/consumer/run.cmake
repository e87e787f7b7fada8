# Installs the build in BUILD_DIR, then builds and runs this project against what was installed.
#   cmake -D BUILD_DIR=... -D WORK_DIR=... -D CXX=... -P run.cmake
set(prefix "${WORK_DIR}/prefix")
file(REMOVE_RECURSE "${WORK_DIR}")
execute_process(COMMAND "${CMAKE_COMMAND}" --install "${BUILD_DIR}" --prefix "${prefix}"
                COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)
execute_process(COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}" -B "${WORK_DIR}/build"
                        "-DCMAKE_PREFIX_PATH=${prefix}" "-DCMAKE_CXX_COMPILER=${CXX}" -DCMAKE_BUILD_TYPE=Release
                        "-DCMAKE_CXX_FLAGS=${CXX_FLAGS}"
                COMMAND_ERROR_IS_FATAL ANY OUTPUT_QUIET)
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${WORK_DIR}/build" COMMAND_ERROR_IS_FATAL ANY)
foreach(program kernels_program torch_program torch_cuda_program kernels_cuda_program)
    if(EXISTS "${WORK_DIR}/build/${program}")
        execute_process(COMMAND "${WORK_DIR}/build/${program}" COMMAND_ERROR_IS_FATAL ANY)
    endif()
endforeach()
