// A TIFF in memory, through libtiff.
#pragma once

#include <tiffio.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace pe::gate {

class TiffFile {
  public:
    // Throws Error.
    explicit TiffFile(std::string_view data);
    TiffFile(const TiffFile&) = delete;
    TiffFile& operator=(const TiffFile&) = delete;

    // An integer tag of 16 or 32 bits; `otherwise` where the file does not have it.
    uint16_t short_tag(uint32_t tag, uint16_t otherwise) const;
    uint32_t long_tag(uint32_t tag, uint32_t otherwise) const;
    TIFF* get() const { return file_.get(); }

    // All rows as they are stored, decompressed: bits in their order, samples of more in the machine's byte
    // order; of a planar file, plane by plane. Throws Error for what is truncated or damaged.
    std::vector<uint8_t> read_rows() const;

    // The pixels as libtiff shows them, 8-bit RGBA, not turned. Throws Error.
    std::vector<uint32_t> read_rgba() const;

  private:
    static tmsize_t on_read(thandle_t handle, void* to, tmsize_t count);
    static toff_t on_seek(thandle_t handle, toff_t offset, int whence);
    static toff_t on_size(thandle_t handle);

    void read_strips(uint32_t plane, uint8_t* to) const;
    void read_tiles(uint32_t plane, uint8_t* to) const;

    std::string_view data_;
    mutable toff_t position_ = 0;  // libtiff moves it while it reads
    std::unique_ptr<TIFF, void (*)(TIFF*)> file_;
};

}  // namespace pe::gate
