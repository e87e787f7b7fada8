#include "error.h"

namespace pe::capi {
std::string one_line(const std::string& text) {
    std::string line;
    for (const char c : text) {
        const bool space = c == ' ' || (c >= '\t' && c <= '\r');
        if (!space) {
            line += c;
        } else if (!line.empty() && line.back() != ' ') {
            line += ' ';
        }
    }
    if (!line.empty() && line.back() == ' ') line.pop_back();
    return line;
}

void ErrorTexts::set(const char* text) noexcept {
    const std::lock_guard lock(mutex_);
    try {
        texts_[std::this_thread::get_id()] = text;
    } catch (const std::bad_alloc&) {
        // Of a thread without an entry, the status alone says it. The text fits into the string itself.
        const auto entry = texts_.find(std::this_thread::get_id());
        if (entry != texts_.end()) entry->second = "out of memory";
    }
}

const char* ErrorTexts::get() const noexcept {
    const std::lock_guard lock(mutex_);
    const auto entry = texts_.find(std::this_thread::get_id());
    return entry == texts_.end() ? "" : entry->second.c_str();
}

ErrorTexts& errors_without_handle() {
    // Never destroyed: threads may outlive the library's static objects.
    static auto* const errors = new ErrorTexts;
    return *errors;
}

}  // namespace pe::capi
