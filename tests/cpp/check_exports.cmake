# The symbols that a LIBRARY defines for others are the EXPECTED ones.
execute_process(COMMAND "${NM}" --dynamic --defined-only --format=posix "${LIBRARY}" OUTPUT_VARIABLE lines
                COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^\n]+" lines "${lines}")
set(symbols "")
foreach(line IN LISTS lines)
    string(REGEX REPLACE "[@ ].*" "" symbol "${line}")
    list(APPEND symbols "${symbol}")
endforeach()
if(NOT symbols STREQUAL EXPECTED)
    message(FATAL_ERROR "${LIBRARY}: expected the symbols ${EXPECTED}, got ${symbols}")
endif()
