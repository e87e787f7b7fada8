#include "files.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>

#include "text.h"

namespace pe::gate {
namespace {

// protobuf's limit; a larger model would have its weights in other files.
constexpr int64_t kMaxMetricBytes = (int64_t(1) << 31) - 1;

// Makes an empty file of a name that nothing has, and returns the name. Its mode is what the process's umask
// leaves, which the system applies: to ask for the umask is to change it, for all threads.
std::string make_temporary(const std::filesystem::path& folder, const std::filesystem::path& target) {
    constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz0123456789";
    constexpr int kRandomLetters = 8, kTries = 100;
    std::random_device random;
    for (int attempt = 0; attempt < kTries; ++attempt) {
        std::string name = std::string(".").append(target.stem().string()).append(".");
        for (int i = 0; i < kRandomLetters; ++i) name += kLetters[random() % kLetters.size()];
        const std::string path = (folder / (name + target.extension().string())).string();
        const int file = open(path.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
        if (file >= 0) {
            close(file);
            return path;
        }
        if (errno != EEXIST) throw Error(system_error(errno, path));
    }
    throw Error(system_error(EEXIST, target.string()));
}

}  // namespace

void write_atomically(const std::string& path, const std::function<void(const std::string&)>& write) {
    namespace fs = std::filesystem;
    const fs::path target(path);
    const fs::path folder = target.has_parent_path() ? target.parent_path() : fs::path(".");
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) throw Error(system_error(error.value(), folder.string()));
    const std::string temporary = make_temporary(folder, target);
    try {
        write(temporary);
        if (std::rename(temporary.c_str(), path.c_str()) != 0) throw Error(system_error(errno, path));
    } catch (...) {
        unlink(temporary.c_str());
        throw;
    }
}

void write_text(const std::string& path, const std::string& text) {
    write_atomically(path, [&](const std::string& temporary) {
        std::ofstream file(temporary, std::ios::binary);
        file << text;
        file.close();
        if (!file) throw Error(system_error(errno, path));
    });
}

std::string read_metric_bytes(const std::string& path) {
    struct stat status;
    if (stat(path.c_str(), &status) != 0) throw Error(system_error(errno, path));
    if (S_ISDIR(status.st_mode)) throw Error(path + ": expected an ONNX file, got a directory");
    if (!S_ISREG(status.st_mode))
        throw Error(path + ": expected an ONNX file, got something that is not a file");
    // As those of /proc say they are.
    if (status.st_size == 0) throw Error(path + ": expected an ONNX file, got an empty file");
    if (status.st_size > kMaxMetricBytes) {
        throw Error(path + ": expected an ONNX file of at most " + std::to_string(kMaxMetricBytes) +
                    " bytes, got " + std::to_string(status.st_size) + " bytes");
    }
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error(system_error(errno, path));
    std::string data(std::size_t(status.st_size), '\0');
    file.read(data.data(), std::streamsize(data.size()));
    if (std::size_t(file.gcount()) != data.size()) throw Error(path + ": expected to be read whole");
    return data;
}

std::string sha256(std::string_view data) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (EVP_Digest(data.data(), data.size(), digest, &size, EVP_sha256(), nullptr) != 1) {
        throw Error("SHA-256: expected to be available in OpenSSL");
    }
    std::string text;
    for (unsigned i = 0; i < size; ++i) {
        char hex[3];
        std::snprintf(hex, sizeof hex, "%02x", digest[i]);
        text += hex;
    }
    return text;
}

}  // namespace pe::gate
