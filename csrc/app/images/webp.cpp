#include <webp/decode.h>
#include <webp/demux.h>

#include <cstring>
#include <memory>

#include "../text.h"
#include "exif.h"
#include "image.h"

namespace pe::gate {
namespace {

std::string_view chunk(const WebPDemuxer* file, const char* name) {
    WebPChunkIterator found;
    if (WebPDemuxGetChunk(file, name, 1, &found) == 0) return {};
    const std::string_view bytes(reinterpret_cast<const char*>(found.chunk.bytes), found.chunk.size);
    WebPDemuxReleaseChunkIterator(&found);  // the bytes are those of the file
    return bytes;
}

}  // namespace

std::optional<Size> size_of_webp(std::string_view data) {
    int width = 0, height = 0;
    const auto* bytes = reinterpret_cast<const uint8_t*>(data.data());
    if (WebPGetInfo(bytes, data.size(), &width, &height) == 0) return std::nullopt;
    return Size{width, height};
}

Image decode_webp(std::string_view data) {
    const WebPData bytes = {reinterpret_cast<const uint8_t*>(data.data()), data.size()};
    WebPBitstreamFeatures features;
    if (WebPGetFeatures(bytes.bytes, bytes.size, &features) != VP8_STATUS_OK) {
        throw Error("expected a WebP image, got a damaged header");
    }
    // Before the decoder allocates its canvas.
    check_size(features.width, features.height);
    WebPAnimDecoderOptions options;
    if (WebPAnimDecoderOptionsInit(&options) == 0)
        throw Error("libwebp is of another version than its headers");
    const std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(
        WebPAnimDecoderNew(&bytes, &options), WebPAnimDecoderDelete);
    WebPAnimInfo info;
    if (decoder == nullptr || WebPAnimDecoderGetInfo(decoder.get(), &info) == 0) {
        throw Error("image file is truncated or damaged");
    }
    check_frames(info.frame_count);
    uint8_t* rgba = nullptr;
    int time = 0;
    if (WebPAnimDecoderGetNext(decoder.get(), &rgba, &time) == 0) {
        throw Error("image file is truncated or damaged");
    }

    Image image;
    image.width = info.canvas_width;
    image.height = info.canvas_height;
    image.layout = features.has_alpha != 0 ? PE_RGBA : PE_RGB;
    image.allocate();
    if (image.layout == PE_RGBA) {
        std::memcpy(image.samples.data(), rgba, image.samples.size());
    } else {
        for (std::size_t i = 0; i < image.samples.size() / 3; ++i) {
            std::memcpy(&image.samples[i * 3], rgba + i * 4, 3);
        }
    }
    const WebPDemuxer* file = WebPAnimDecoderGetDemuxer(decoder.get());
    const std::string_view exif = chunk(file, "EXIF");
    const Orientation orientation =
        orientation_of(exif.empty() ? std::nullopt : std::optional(exif), chunk(file, "XMP "));
    image.orientation = orientation.value;
    image.damaged_exif = orientation.damaged_exif;
    image.colours.profile = chunk(file, "ICCP");
    return image;
}

}  // namespace pe::gate
