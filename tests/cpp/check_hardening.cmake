# A FILE that is shipped is linked and compiled as cmake/PeHardening.cmake has it: no address that calls go through can
# be written once it is loaded, no stack can be run, stacks are checked, targets of indirect jumps are marked.
#   cmake -D READELF=readelf -D FILE=x.so -D PROGRAM=OFF -P check_hardening.cmake
# A program (PROGRAM=ON) also starts at an address that changes.
function(pe_read variable)
    execute_process(COMMAND "${READELF}" --wide ${ARGN} "${FILE}" OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
    set(${variable} "${output}" PARENT_SCOPE)
endfunction()

function(pe_expect text pattern what)
    if(NOT "${text}" MATCHES "${pattern}")
        message(SEND_ERROR "${FILE}: expected ${what}")
    endif()
endfunction()

pe_read(segments --program-headers)
pe_expect("${segments}" "GNU_RELRO" "a segment that is read-only after relocation (-z relro)")
pe_expect("${segments}" "GNU_STACK +[^\n]* RW +0x" "a stack that cannot be run")
pe_read(dynamic --dynamic)
pe_expect("${dynamic}" "BIND_NOW|FLAGS_1[^\n]*NOW" "symbols that are bound when it is loaded (-z now)")
pe_read(symbols --dyn-syms)
pe_expect("${symbols}" "__stack_chk_fail" "checks of the stack (-fstack-protector-strong)")
# Start-up code of the compiler has a few marks in any file. The file's own note about them is missing where the C
# library's start-up code has none, as in Debian 12.
file(READ "${FILE}" bytes HEX)
string(REGEX REPLACE "f30f1efa|5f2403d5|3f2303d5" "" others "${bytes}")
string(LENGTH "${bytes}" length)
string(LENGTH "${others}" others)
math(EXPR marks "(${length} - ${others}) / 8")
if(marks LESS 40)
    message(SEND_ERROR "${FILE}: expected marks where indirect jumps may go (-fcf-protection), got ${marks}")
endif()
if(PROGRAM)
    pe_expect("${dynamic}" "FLAGS_1[^\n]*PIE" "a program at an address that changes (PIE)")
endif()
