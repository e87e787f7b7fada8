// Directories of tags, as TIFF files, EXIF blocks and the index of multi-picture JPEGs have them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace pe::gate {

// The first directory of a TIFF structure, classic or BigTIFF. What is damaged in it is as if it were not
// there.
class TagDirectory {
  public:
    explicit TagDirectory(std::string_view data);

    // Without a header, or with a directory that is not whole.
    bool is_damaged() const { return damaged_; }
    bool has(uint16_t tag) const { return find(tag).has_value(); }
    // Where the next directory is, 0 where there is none; nothing where the file ends before that is said.
    std::optional<uint64_t> next() const { return next_; }
    // A tag that is there twice; nothing where there is none.
    std::optional<uint16_t> repeated() const;
    // A tag whose values, of a type that is known, do not lie inside; nothing where there is none.
    std::optional<uint16_t> outside() const;
    // The first value of an integer tag.
    std::optional<uint32_t> number(uint16_t tag) const;
    // All values of a tag of unsigned integers of 2 to 8 bytes; nothing where it is missing, of another type,
    // or outside.
    std::optional<std::vector<uint64_t>> integers(uint16_t tag) const;
    // The bytes of all values of a tag.
    std::optional<std::string_view> bytes(uint16_t tag) const;
    // The bytes of a tag of the type BYTE or UNDEFINED; empty where it is missing or of another type, nothing
    // where they lie outside.
    std::optional<std::string_view> block(uint16_t tag) const;
    // The orientation, 1 to 8; nothing where the directory has none. One of another type, count or value
    // is 1.
    std::optional<int> orientation() const;
    // An unsigned integer of up to 8 bytes in the structure's byte order.
    uint64_t integer(std::string_view bytes) const;

  private:
    struct Entry {
        uint16_t type;
        uint64_t count;
        std::optional<std::string_view> value;  // nothing where it lies outside
    };
    std::optional<Entry> find(uint16_t tag) const;
    // Of the bytes of an entry.
    uint16_t tag_of(std::string_view entry) const { return uint16_t(integer(entry.substr(0, 2))); }
    Entry read(std::string_view entry) const;

    std::string_view data_;
    std::string_view entries_;
    bool big_endian_ = false, big_ = false, damaged_ = true;
    std::size_t entry_bytes_ = 12;
    std::optional<uint64_t> next_;
};

// What an EXIF block and, where that says nothing, an XMP packet say of the orientation.
struct Orientation {
    int value;          // 1 to 8; 1 is upright
    bool damaged_exif;  // upright then, whatever XMP says
};
Orientation orientation_of(const std::optional<std::string_view>& exif, std::string_view xmp);

// Of an XMP packet; 1 where it says nothing.
int xmp_orientation(std::string_view xmp);

}  // namespace pe::gate
