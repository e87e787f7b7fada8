// Files that are either whole or not there, and digests of files.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace pe::gate {

// Writes a temporary file beside `path` by `write`, which takes its path, and renames it. Missing folders are
// made. Throws Error.
void write_atomically(const std::string& path, const std::function<void(const std::string&)>& write);

void write_text(const std::string& path, const std::string& text);

// Throws Error for what cannot be read whole, or is larger than 2 GiB.
std::string read_metric_bytes(const std::string& path);

// Hexadecimal SHA-256.
std::string sha256(std::string_view data);

}  // namespace pe::gate
