// clang-format off: jpeglib.h needs cstdio before it
#include <cstdio>
#include <jpeglib.h>
// clang-format on

#include <algorithm>
#include <csetjmp>
#include <utility>

#include "../text.h"
#include "exif.h"
#include "image.h"

namespace pe::gate {
namespace {

using namespace std::string_view_literals;

constexpr unsigned kMarkerBytes = 0xFFFF;
constexpr std::string_view kExif = "Exif\0\0"sv, kXmp = "http://ns.adobe.com/xap/1.0/\0"sv,
                           kIcc = "ICC_PROFILE\0"sv, kMultiPicture = "MPF\0"sv;

// libjpeg leaves by longjmp: what it is called from has no objects of its own, they are all members.
class JpegReader {
  public:
    explicit JpegReader(std::string_view data) {
        codec_.err = jpeg_std_error(&errors_);
        codec_.client_data = this;
        errors_.error_exit = [](j_common_ptr codec) {
            auto* reader = static_cast<JpegReader*>(codec->client_data);
            codec->err->format_message(codec, reader->error_);
            std::longjmp(reader->escape_, 1);
        };
        errors_.emit_message = [](j_common_ptr, int) {};
        source_.init_source = [](j_decompress_ptr) {};
        // Nothing follows: the decoder gives up where it is.
        source_.fill_input_buffer = [](j_decompress_ptr) -> boolean { return FALSE; };
        source_.skip_input_data = [](j_decompress_ptr codec, long count) {
            const std::size_t skipped =
                std::min(std::size_t(std::max(count, 0L)), codec->src->bytes_in_buffer);
            codec->src->next_input_byte += skipped;
            codec->src->bytes_in_buffer -= skipped;
        };
        source_.resync_to_restart = jpeg_resync_to_restart;
        source_.term_source = [](j_decompress_ptr) {};
        source_.next_input_byte = reinterpret_cast<const JOCTET*>(data.data());
        source_.bytes_in_buffer = data.size();
    }
    ~JpegReader() { jpeg_destroy_decompress(&codec_); }
    JpegReader(const JpegReader&) = delete;
    JpegReader& operator=(const JpegReader&) = delete;

    Image read() {
        if (!read_header()) throw Error(error_);
        image_.width = codec_.image_width;
        image_.height = codec_.image_height;
        image_.cmyk = codec_.num_components == 4;
        image_.layout = codec_.num_components == 1 ? PE_GREY : PE_RGB;
        read_markers();
        image_.allocate();
        if (image_.cmyk) line_.resize(std::size_t(image_.width) * 4);
        if (!read_pixels()) throw Error(error_);
        return std::move(image_);
    }

  private:
    // Ends the reading with an error.
    [[noreturn]] void fail(const char* message) {
        std::snprintf(error_, sizeof error_, "%s", message);
        std::longjmp(escape_, 1);
    }

    bool read_header() {
        if (setjmp(escape_) != 0) return false;
        jpeg_create_decompress(&codec_);
        codec_.src = &source_;
        for (const int marker : {0, 1, 2, 14}) jpeg_save_markers(&codec_, JPEG_APP0 + marker, kMarkerBytes);
        if (jpeg_read_header(&codec_, TRUE) != JPEG_HEADER_OK) fail("image file is truncated");
        if (codec_.data_precision != 8) fail("expected 8 bits per sample");
        switch (codec_.num_components) {
            case 1:
                codec_.out_color_space = JCS_GRAYSCALE;
                break;
            case 3:
                codec_.out_color_space = JCS_RGB;
                break;
            case 4:
                codec_.out_color_space = JCS_CMYK;
                break;
            default:
                fail("expected grey, RGB or CMYK pixels");
        }
        return true;
    }

    bool read_pixels() {
        if (setjmp(escape_) != 0) return false;
        if (jpeg_start_decompress(&codec_) == FALSE) fail("image file is truncated");
        const std::size_t row_bytes = image_.samples.size() / codec_.output_height;
        while (codec_.output_scanline < codec_.output_height) {
            uint8_t* row = image_.samples.data() + codec_.output_scanline * row_bytes;
            JSAMPROW target = image_.cmyk ? line_.data() : row;
            if (jpeg_read_scanlines(&codec_, &target, 1) != 1) fail("image file is truncated");
            if (image_.cmyk) convert_line(row);
        }
        // An end marker that is missing after the last row takes nothing from the pixels.
        jpeg_finish_decompress(&codec_);
        return true;
    }

    // Adobe's programs, which all such files imitate, store the inverse.
    void convert_line(uint8_t* row) {
        for (uint8_t& sample : line_) sample = uint8_t(255 - sample);
        for (std::size_t x = 0; x * 4 < line_.size(); ++x) cmyk_to_rgb(&line_[x * 4], row + x * 3);
    }

    void read_markers() {
        std::string exif, xmp;
        std::string_view index;
        std::vector<std::string_view> profile;
        bool gain_map = false;
        for (jpeg_saved_marker_ptr marker = codec_.marker_list; marker != nullptr; marker = marker->next) {
            const std::string_view bytes(reinterpret_cast<const char*>(marker->data), marker->data_length);
            const auto starts = [&](std::string_view text) { return bytes.substr(0, text.size()) == text; };
            const int number = marker->marker - JPEG_APP0;
            // libjpeg takes these for segments of another kind.
            if (((number == 0 && starts("JFIF")) || (number == 14 && starts("Adobe"))) && bytes.size() < 7) {
                throw Error("expected a JPEG, got a damaged header");
            }
            const bool first = number == 1, second = number == 2;
            if (first && starts(kExif)) {
                exif += exif.empty() ? bytes : bytes.substr(kExif.size());
            } else if (first && starts(kXmp)) {
                xmp = bytes.substr(kXmp.size());
            } else if (second && starts(kIcc) && bytes.size() > kIcc.size() + 2) {
                profile.push_back(bytes);
            } else if (second && starts(kMultiPicture)) {
                index = bytes.substr(kMultiPicture.size());
            }
            gain_map |= first && bytes.find(" hdrgm:Version=\"") != std::string_view::npos;
        }
        const Orientation orientation =
            orientation_of(exif.empty() ? std::nullopt : std::optional<std::string_view>(exif), xmp);
        image_.orientation = orientation.value;
        image_.damaged_exif = orientation.damaged_exif;
        image_.several = !gain_map && images_in(index) > 1;
        std::sort(profile.begin(), profile.end());  // by their number, which comes first
        if (!profile.empty() && static_cast<unsigned char>(profile[0][13]) == profile.size()) {
            for (const std::string_view part : profile) {
                image_.colours.profile += part.substr(kIcc.size() + 2);
            }
        }
    }

    // Images of a multi-picture file by its index; 1 where that is damaged or has other kinds than JPEG.
    static uint32_t images_in(std::string_view index) {
        constexpr uint16_t kCount = 0xB001, kEntries = 0xB002;
        constexpr std::size_t kEntryBytes = 16;
        constexpr uint32_t kFormat = 7u << 24;
        const TagDirectory directory(index);
        const auto count = directory.number(kCount);
        const auto entries = directory.bytes(kEntries);
        if (!count || !entries || entries->size() / kEntryBytes < *count) return 1;
        for (uint32_t i = 0; i < *count; ++i) {
            if ((directory.integer(entries->substr(i * kEntryBytes, 4)) & kFormat) != 0) return 1;
        }
        return *count;
    }

    jpeg_decompress_struct codec_ = {};
    jpeg_error_mgr errors_ = {};
    jpeg_source_mgr source_ = {};
    std::jmp_buf escape_ = {};
    char error_[JMSG_LENGTH_MAX] = "";
    std::vector<uint8_t> line_;  // of CMYK samples
    Image image_;
};

int64_t integer(std::string_view bytes) {
    int64_t value = 0;
    for (const char c : bytes) value = value << 8 | static_cast<unsigned char>(c);
    return value;
}

}  // namespace

std::optional<Size> size_of_jpeg(std::string_view data) {
    for (std::size_t at = 2; at + 4 <= data.size();) {
        const auto marker = static_cast<unsigned char>(data[at + 1]);
        if (data[at] != '\xff') return std::nullopt;
        if (marker == 0xFF) {  // filling
            ++at;
            continue;
        }
        // Start of a frame of any kind; C4, C8 and CC are tables and the like.
        if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) {
            if (data.size() - at < 9) return std::nullopt;
            return Size{integer(data.substr(at + 7, 2)), integer(data.substr(at + 5, 2))};
        }
        // What has no length, the pixels and the end.
        if (marker <= 0x01 || (marker >= 0xD0 && marker <= 0xDA)) return std::nullopt;
        const auto length = std::size_t(integer(data.substr(at + 2, 2)));
        if (length < 2 || length > data.size() - at - 2) return std::nullopt;
        at += 2 + length;
    }
    return std::nullopt;
}

Image decode_jpeg(std::string_view data) { return JpegReader(data).read(); }

}  // namespace pe::gate
