// What the implementation throws, and where a caller finds its text.
#pragma once

#include <pe_runtime.h>

#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>

namespace pe::capi {

// One line: texts of ONNX Runtime have more.
std::string one_line(const std::string& text);

// The number of an enumeration's value, which callers in C may have set to any.
template <class Enumeration>
int number_of(const Enumeration& value) {
    static_assert(sizeof(Enumeration) == sizeof(int));
    int number;
    std::memcpy(&number, &value, sizeof number);
    return number;
}

class Error : public std::runtime_error {
  public:
    Error(pe_status status, const std::string& text) : std::runtime_error(one_line(text)), status_(status) {}
    pe_status status() const noexcept { return status_; }

  private:
    pe_status status_;
};

// The last error of each thread, for a handle that several threads use.
class ErrorTexts {
  public:
    void set(const char* text) noexcept;
    // Valid until this thread's next set().
    const char* get() const noexcept;

  private:
    mutable std::mutex mutex_;
    // Nodes of a map stay where they are while other threads insert theirs. The system uses the ids of ended
    // threads again, so that there are never more than threads that ran at once.
    std::map<std::thread::id, std::string> texts_;
};

// The same where there is no handle.
ErrorTexts& errors_without_handle();

}  // namespace pe::capi
