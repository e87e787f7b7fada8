// Directories of tags, as TIFF files, EXIF blocks and the index of multi-picture JPEGs have them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace pe::gate {

// The first directory of a classic TIFF structure. What is damaged in it is as if it were not there.
class TagDirectory {
  public:
    explicit TagDirectory(std::string_view data);

    // The first value of an integer tag.
    std::optional<uint32_t> number(uint16_t tag) const;
    // The bytes of all values of a tag.
    std::optional<std::string_view> bytes(uint16_t tag) const;
    // An unsigned integer of 2 or 4 bytes in the structure's byte order.
    uint32_t integer(std::string_view bytes) const;

  private:
    struct Entry {
        uint16_t type;
        std::string_view value;
    };
    std::optional<Entry> find(uint16_t tag) const;

    std::string_view data_;
    std::string_view entries_;
    bool big_endian_ = false;
};

// Orientation, 1 to 8, of an EXIF block and, where that has none, of an XMP packet; 1 where neither has one.
int orientation_of(std::string_view exif, std::string_view xmp);

}  // namespace pe::gate
