#include "exif.h"

#include <algorithm>

namespace pe::gate {
namespace {

using namespace std::string_view_literals;

constexpr uint16_t kOrientation = 0x0112;
constexpr std::string_view kPrefix = "Exif\0\0"sv;

enum Type : uint16_t { kByte = 1, kShort = 3, kLong = 4, kUndefined = 7, kLong8 = 16 };

// Bytes of a value of each type: BYTE, ASCII, SHORT, LONG, RATIONAL, SBYTE, UNDEFINED, SSHORT, SLONG, ...,
// and from 16 on those of BigTIFF.
constexpr std::size_t kTypeBytes[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8};

// 0 where the type is not known.
std::size_t size_of_type(uint16_t type) { return type < std::size(kTypeBytes) ? kTypeBytes[type] : 0; }

bool is_orientation(uint64_t value) { return value >= 1 && value <= 8; }

std::string_view without_spaces(std::string_view text) {
    return text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
}

}  // namespace

TagDirectory::TagDirectory(std::string_view data) : data_(data) {
    const std::string_view start = data.substr(0, 4);
    if (start != "II*\0"sv && start != "MM\0*"sv && start != "II+\0"sv && start != "MM\0+"sv) return;
    big_endian_ = start[0] == 'M';
    big_ = start[2] == '+' || start[3] == '+';
    const std::size_t word = big_ ? 8 : 4, counter = big_ ? 8 : 2;
    entry_bytes_ = big_ ? 20 : 12;
    if (data.size() < 2 * word) return;
    // The header of BigTIFF says that its words have 8 bytes.
    if (big_ && integer(data.substr(4, 4)) != (big_endian_ ? 0x80000u : 8u)) return;
    const uint64_t offset = integer(data.substr(word, word));
    if (offset > data.size() || data.size() - offset < counter) return;
    const uint64_t count = integer(data.substr(offset, counter));
    entries_ = data.substr(offset + counter);
    const uint64_t whole = entries_.size() / entry_bytes_;
    constexpr uint64_t kMaxEntries = 65535;
    damaged_ = count > whole || count > kMaxEntries;
    const std::size_t end = std::size_t(std::min(whole, count)) * entry_bytes_;
    if (!damaged_ && entries_.size() - end >= word) next_ = integer(entries_.substr(end, word));
    entries_ = entries_.substr(0, end);
}

uint64_t TagDirectory::integer(std::string_view bytes) const {
    uint64_t value = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        const auto byte = static_cast<unsigned char>(bytes[big_endian_ ? i : bytes.size() - 1 - i]);
        value = value << 8 | byte;
    }
    return value;
}

TagDirectory::Entry TagDirectory::read(std::string_view entry) const {
    const std::size_t word = big_ ? 8 : 4;
    const uint64_t type = integer(entry.substr(2, 2)), count = integer(entry.substr(4, word));
    Entry found{uint16_t(type), count, std::nullopt};
    const std::size_t size = size_of_type(found.type);
    if (size == 0 || count > data_.size()) return found;
    const uint64_t bytes = count * size;
    const std::string_view field = entry.substr(4 + word);
    const uint64_t offset = integer(field);
    if (bytes <= word) {
        found.value = field.substr(0, bytes);
    } else if (offset <= data_.size() && bytes <= data_.size() - offset) {
        found.value = data_.substr(offset, bytes);
    }
    return found;
}

std::optional<TagDirectory::Entry> TagDirectory::find(uint16_t tag) const {
    for (std::size_t at = 0; at < entries_.size(); at += entry_bytes_) {
        const std::string_view entry = entries_.substr(at, entry_bytes_);
        if (tag_of(entry) == tag) return read(entry);
    }
    return std::nullopt;
}

std::optional<uint16_t> TagDirectory::outside() const {
    for (std::size_t at = 0; at < entries_.size(); at += entry_bytes_) {
        const std::string_view bytes = entries_.substr(at, entry_bytes_);
        const Entry entry = read(bytes);
        if (!entry.value && size_of_type(entry.type) != 0) return tag_of(bytes);
    }
    return std::nullopt;
}

std::optional<uint16_t> TagDirectory::repeated() const {
    std::vector<uint16_t> tags;
    for (std::size_t at = 0; at < entries_.size(); at += entry_bytes_) {
        tags.push_back(tag_of(entries_.substr(at, entry_bytes_)));
    }
    std::sort(tags.begin(), tags.end());
    const auto twice = std::adjacent_find(tags.begin(), tags.end());
    return twice == tags.end() ? std::nullopt : std::optional(*twice);
}

std::optional<uint32_t> TagDirectory::number(uint16_t tag) const {
    const std::optional<Entry> entry = find(tag);
    if (!entry || !entry->value || (entry->type != kByte && entry->type != kShort && entry->type != kLong)) {
        return std::nullopt;
    }
    const std::size_t size = kTypeBytes[entry->type];
    if (entry->value->size() < size) return std::nullopt;
    return uint32_t(integer(entry->value->substr(0, size)));
}

std::optional<std::vector<uint64_t>> TagDirectory::integers(uint16_t tag) const {
    const std::optional<Entry> entry = find(tag);
    if (!entry || !entry->value) return std::nullopt;
    const uint16_t type = entry->type;
    if (type != kShort && type != kLong && type != kLong8) return std::nullopt;
    const std::size_t size = kTypeBytes[type];
    std::vector<uint64_t> values;
    values.reserve(entry->value->size() / size);
    for (std::size_t at = 0; at < entry->value->size(); at += size) {
        values.push_back(integer(entry->value->substr(at, size)));
    }
    return values;
}

std::optional<std::string_view> TagDirectory::bytes(uint16_t tag) const {
    const std::optional<Entry> entry = find(tag);
    return entry ? entry->value : std::nullopt;
}

std::optional<std::string_view> TagDirectory::block(uint16_t tag) const {
    const std::optional<Entry> entry = find(tag);
    if (!entry || (entry->type != kByte && entry->type != kUndefined)) return std::string_view();
    return entry->value;
}

std::optional<int> TagDirectory::orientation() const {
    const std::optional<Entry> entry = find(kOrientation);
    if (!entry) return std::nullopt;
    const std::optional<uint32_t> value = number(kOrientation);
    return entry->count == 1 && value && is_orientation(*value) ? int(*value) : 1;
}

int xmp_orientation(std::string_view xmp) {
    constexpr std::string_view kName = "tiff:Orientation";
    for (std::size_t at = xmp.find(kName); at != std::string_view::npos; at = xmp.find(kName, at + 1)) {
        // An attribute or an element.
        std::string_view rest = without_spaces(xmp.substr(at + kName.size()));
        const char sign = rest.empty() ? '\0' : rest[0];
        if (sign != '=' && sign != '>') continue;
        rest = without_spaces(rest.substr(1));
        if (sign == '=') {
            if (rest.empty() || (rest[0] != '"' && rest[0] != '\'')) continue;
            rest.remove_prefix(1);
        }
        if (!rest.empty() && rest[0] >= '1' && rest[0] <= '8') return rest[0] - '0';
    }
    return 1;
}

Orientation orientation_of(const std::optional<std::string_view>& exif, std::string_view xmp) {
    if (!exif) return {xmp_orientation(xmp), false};
    std::string_view block = *exif;
    // Some writers put it there twice.
    for (int i = 0; i < 2 && block.substr(0, kPrefix.size()) == kPrefix; ++i)
        block.remove_prefix(kPrefix.size());
    const std::string_view start = block.substr(0, 4);
    const TagDirectory directory(block);
    if ((start != "II*\0"sv && start != "MM\0*"sv) || directory.is_damaged()) return {1, true};
    const std::optional<int> value = directory.orientation();
    return {value ? *value : xmp_orientation(xmp), false};
}

}  // namespace pe::gate
