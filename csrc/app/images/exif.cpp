#include "exif.h"

#include <algorithm>

namespace pe::gate {
namespace {

using namespace std::string_view_literals;

constexpr uint16_t kOrientation = 0x0112;
constexpr std::size_t kEntryBytes = 12;
constexpr std::string_view kPrefix = "Exif\0\0"sv;

// Bytes of a value of each type: BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED, SSHORT, SLONG, ...
constexpr std::size_t kTypeBytes[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8};

std::optional<int> xmp_orientation(std::string_view xmp) {
    constexpr std::string_view kName = "tiff:Orientation";
    for (std::size_t at = xmp.find(kName); at != std::string_view::npos; at = xmp.find(kName, at + 1)) {
        std::string_view rest = xmp.substr(at + kName.size());
        // An attribute or an element.
        const std::size_t skip = rest.substr(0, 2) == "=\"" ? 2 : rest.substr(0, 1) == ">" ? 1 : 0;
        rest.remove_prefix(skip);
        if (skip != 0 && !rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
    }
    return std::nullopt;
}

}  // namespace

TagDirectory::TagDirectory(std::string_view data) : data_(data) {
    if (data.substr(0, 4) == "MM\0*"sv) {
        big_endian_ = true;
    } else if (data.substr(0, 4) != "II*\0"sv) {
        return;
    }
    if (data.size() < 8) return;
    const uint32_t offset = integer(data.substr(4, 4));
    if (offset > data.size() || data.size() - offset < 2) return;
    const std::size_t count = integer(data.substr(offset, 2));
    entries_ = data.substr(offset + 2);
    entries_ = entries_.substr(0, std::min(entries_.size() / kEntryBytes, count) * kEntryBytes);
}

uint32_t TagDirectory::integer(std::string_view bytes) const {
    uint32_t value = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        const auto byte = static_cast<unsigned char>(bytes[big_endian_ ? i : bytes.size() - 1 - i]);
        value = value << 8 | byte;
    }
    return value;
}

std::optional<TagDirectory::Entry> TagDirectory::find(uint16_t tag) const {
    for (std::size_t at = 0; at < entries_.size(); at += kEntryBytes) {
        const std::string_view entry = entries_.substr(at, kEntryBytes);
        if (integer(entry.substr(0, 2)) != tag) continue;
        const uint32_t type = integer(entry.substr(2, 2)), count = integer(entry.substr(4, 4));
        if (type >= std::size(kTypeBytes) || kTypeBytes[type] == 0) return std::nullopt;
        const uint64_t bytes = uint64_t(count) * kTypeBytes[type];
        const uint64_t offset = integer(entry.substr(8, 4));
        if (bytes <= 4) return Entry{uint16_t(type), entry.substr(8, bytes)};
        if (offset > data_.size() || bytes > data_.size() - offset) return std::nullopt;
        return Entry{uint16_t(type), data_.substr(offset, bytes)};
    }
    return std::nullopt;
}

std::optional<uint32_t> TagDirectory::number(uint16_t tag) const {
    constexpr uint16_t kByte = 1, kShort = 3, kLong = 4;
    const std::optional<Entry> entry = find(tag);
    if (!entry || (entry->type != kByte && entry->type != kShort && entry->type != kLong))
        return std::nullopt;
    const std::size_t size = kTypeBytes[entry->type];
    if (entry->value.size() < size) return std::nullopt;
    return integer(entry->value.substr(0, size));
}

std::optional<std::string_view> TagDirectory::bytes(uint16_t tag) const {
    const std::optional<Entry> entry = find(tag);
    return entry ? std::optional(entry->value) : std::nullopt;
}

int orientation_of(std::string_view exif, std::string_view xmp) {
    // Some writers put it there twice.
    for (int i = 0; i < 2 && exif.substr(0, kPrefix.size()) == kPrefix; ++i)
        exif.remove_prefix(kPrefix.size());
    std::optional<uint32_t> value = TagDirectory(exif).number(kOrientation);
    if (!value) value = xmp_orientation(xmp);
    return value && *value >= 1 && *value <= 8 ? int(*value) : 1;
}

}  // namespace pe::gate
