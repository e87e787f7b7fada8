#include "image_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <optional>

#include "text.h"

namespace pe::gate {
namespace {

using namespace std::string_view_literals;

// First those that are judged.
constexpr std::string_view kSuffixes[] = {
    ".png",  ".apng", ".jpg",   ".jpeg", ".jpe",   ".jfif", ".mpo",   ".webp", ".bmp", ".dib", ".tif",
    ".tiff", ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif",  ".gif", ".jxl", ".exr",
    ".jp2",  ".j2k",  ".j2c",   ".jpx",  ".jpf",   ".jpm",  ".jxr",   ".wdp",  ".hdr", ".pic", ".tga",
    ".dds",  ".psd",  ".psb",   ".svg",  ".svgz",  ".ico",  ".icns",  ".cur",  ".ppm", ".pgm", ".pbm",
    ".pnm",  ".pam",  ".pfm",   ".qoi",  ".ktx",   ".ktx2", ".dng",   ".cr2",  ".cr3", ".nef", ".arw",
    ".orf",  ".rw2",  ".raf",   ".pcx",  ".sgi",   ".rgb",  ".xcf"};

constexpr std::string_view kStarts[] = {"\x89PNG\r\n\x1a\n"sv,
                                        "\xff\xd8\xff"sv,
                                        "II*\0"sv,
                                        "MM\0*"sv,
                                        "II+\0"sv,
                                        "MM\0+"sv,
                                        "GIF87a"sv,
                                        "GIF89a"sv,
                                        "\0\0\0\x0cJXL \r\n\x87\n"sv,
                                        "\0\0\0\x0cjP  \r\n\x87\n"sv,
                                        "\x76\x2f\x31\x01"sv,
                                        "qoif"sv,
                                        "8BPS"sv,
                                        "DDS "sv,
                                        "#?RADIANCE"sv};

// Of the container that AVIF and HEIC share with films.
constexpr std::string_view kBrands[] = {"avif", "avis", "heic", "heix", "heim",
                                        "heis", "hevc", "hevx", "mif1", "msf1"};

bool is_image_content(std::string_view start) {
    const auto is = [&](std::string_view text) { return start.starts_with(text); };
    if (std::any_of(std::begin(kStarts), std::end(kStarts), is)) return true;
    if (start.size() < 12) return false;
    const std::string_view kind = start.substr(8, 4);
    if (start.starts_with("RIFF"sv)) return kind == "WEBP"sv;
    return start.substr(4, 4) == "ftyp"sv &&
           std::find(std::begin(kBrands), std::end(kBrands), kind) != std::end(kBrands);
}

// A set of characters from behind its bracket on. Without an end, the bracket stands for itself.
struct Set {
    std::u32string_view characters;
    bool inverted;
    std::size_t length;  // in the pattern, with both brackets

    bool has(char32_t character) const {
        for (std::size_t i = 0; i < characters.size(); ++i) {
            char32_t last = characters[i];
            if (i + 2 < characters.size() && characters[i + 1] == '-') last = characters[i + 2];
            if (character >= characters[i] && character <= last) return true;
            if (i + 2 < characters.size() && characters[i + 1] == '-') i += 2;
        }
        return false;
    }
};

std::optional<Set> read_set(std::u32string_view pattern) {
    const bool inverted = pattern.size() > 1 && pattern[1] == '!';
    const std::size_t start = inverted ? 2 : 1;
    // An end that comes first is one of the characters.
    const std::size_t end = pattern.find(U']', start + 1);
    if (end == std::u32string_view::npos) return std::nullopt;
    return Set{pattern.substr(start, end - start), inverted, end + 1};
}

// How many characters of the pattern match `character` as one; 0: it does not.
std::size_t match_one(std::u32string_view pattern, char32_t character) {
    if (pattern.front() == '?') return 1;
    if (pattern.front() == '[') {
        if (const std::optional<Set> set = read_set(pattern)) {
            return set->has(character) != set->inverted ? set->length : 0;
        }
    }
    return pattern.front() == character ? 1 : 0;
}

bool matches(std::u32string_view pattern, std::u32string_view text) {
    // What is tried again with one more character for the last * where the rest does not match.
    std::optional<std::u32string_view> rest_pattern;
    std::u32string_view rest_text;
    while (true) {
        if (!pattern.empty() && pattern.front() == '*') {
            pattern.remove_prefix(1);
            rest_pattern = pattern;
            rest_text = text;
            continue;
        }
        if (pattern.empty() && text.empty()) return true;
        const std::size_t used = pattern.empty() || text.empty() ? 0 : match_one(pattern, text.front());
        if (used != 0) {
            pattern.remove_prefix(used);
            text.remove_prefix(1);
        } else if (rest_pattern && !rest_text.empty()) {
            rest_text.remove_prefix(1);
            pattern = *rest_pattern;
            text = rest_text;
        } else {
            return false;
        }
    }
}

}  // namespace

std::string suffix(const std::string& path) {
    const std::string name = path.substr(path.find_last_of('/') + 1);
    const std::size_t dot = name.find_last_of('.');
    return dot == std::string::npos || dot == 0 || dot + 1 == name.size() ? "" : name.substr(dot);
}

bool is_image_file(const std::string& path) {
    std::string ending = suffix(path);
    std::transform(ending.begin(), ending.end(), ending.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    if (std::find(std::begin(kSuffixes), std::end(kSuffixes), ending) != std::end(kSuffixes)) return true;
    struct stat status;
    if (stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) return false;
    std::ifstream file(path, std::ios::binary);
    if (!file) return true;
    char start[16] = {};
    file.read(start, sizeof start);
    return is_image_content({start, std::size_t(file.gcount())});
}

bool matches(std::string_view pattern, std::string_view text) {
    return matches(std::u32string_view(code_points(pattern)), std::u32string_view(code_points(text)));
}

}  // namespace pe::gate
