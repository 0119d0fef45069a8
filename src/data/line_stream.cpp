#include "line_stream.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"

namespace llmft {
namespace {

constexpr size_t kBuffer = 1 << 18;
constexpr size_t kLongestLine = size_t{64} << 20;

class PlainStream : public ByteStream {
 public:
  PlainStream(const SourceFile& file, uint64_t begin)
      : path_(file.path.string()), fd_(::open(file.path.c_str(), O_RDONLY | O_CLOEXEC)), at_(begin) {
    if (fd_ < 0)
      user_error("{}: cannot open ({}); check the path and its permissions", path_, std::strerror(errno));
  }
  ~PlainStream() override { ::close(fd_); }
  PlainStream(const PlainStream&) = delete;
  PlainStream& operator=(const PlainStream&) = delete;

  size_t read(char* out, size_t size) override {
    while (true) {
      ssize_t got = ::pread(fd_, out, size, static_cast<off_t>(at_));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) user_error("{}: cannot read ({})", path_, std::strerror(errno));
      at_ += static_cast<uint64_t>(got);
      return static_cast<size_t>(got);
    }
  }

 private:
  std::string path_;
  int fd_;
  uint64_t at_;
};

class CompressedStream : public ByteStream {
 public:
  explicit CompressedStream(const SourceFile& file)
      : path_(file.path.string()), plain_(file, 0), input_(kBuffer) {}

 protected:
  // False at the end of the file.
  bool more() {
    size_ = plain_.read(input_.data(), input_.size());
    at_ = 0;
    consumed_ += size_;
    return size_ > 0;
  }
  [[noreturn]] void corrupt(const char* kind, const std::string& reason) const {
    user_error("{}: corrupt {} data before byte {} ({}); fetch the file again", path_, kind, consumed_,
               reason);
  }

  std::string path_;
  PlainStream plain_;
  std::vector<char> input_;
  size_t at_ = 0;
  size_t size_ = 0;
  uint64_t consumed_ = 0;
};

// Several members one after another are one text, as for gzip itself.
class GzipStream : public CompressedStream {
 public:
  explicit GzipStream(const SourceFile& file) : CompressedStream(file) {
    check(::inflateInit2(&state_, 15 + 16) == Z_OK, "zlib does not start");
  }
  ~GzipStream() override { ::inflateEnd(&state_); }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  size_t read(char* out, size_t size) override {
    while (true) {
      bool ended = at_ == size_ && !more();
      if (!inside_) {
        if (ended && consumed_ == 0) corrupt("gzip", "it ends too early");
        if (ended) return 0;
        ::inflateReset(&state_);
        inside_ = true;
      }
      state_.next_in = reinterpret_cast<Bytef*>(input_.data() + at_);
      state_.avail_in = static_cast<uInt>(size_ - at_);
      state_.next_out = reinterpret_cast<Bytef*>(out);
      state_.avail_out = static_cast<uInt>(size);
      int result = ::inflate(&state_, Z_NO_FLUSH);
      at_ = size_ - state_.avail_in;
      if (result == Z_STREAM_END) {
        inside_ = false;
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        corrupt("gzip", state_.msg == nullptr ? "zlib refuses it" : state_.msg);
      }
      if (size_t got = size - state_.avail_out; got > 0) return got;
      // zlib may still have held output when the input ran out; now it has not.
      if (ended && inside_) corrupt("gzip", "it ends too early");
    }
  }

 private:
  z_stream state_{};
  bool inside_ = false;  // a member
};

class ZstdStream : public CompressedStream {
 public:
  explicit ZstdStream(const SourceFile& file)
      : CompressedStream(file), state_(::ZSTD_createDStream(), &::ZSTD_freeDStream) {
    ::ZSTD_DCtx_setParameter(state_.get(), ZSTD_d_windowLogMax, 31);  // as of zstd --long=31
  }

  size_t read(char* out, size_t size) override {
    while (true) {
      bool ended = at_ == size_ && !more();
      if (ended && consumed_ == 0) corrupt("zstd", "it ends too early");
      if (ended && wanted_ == 0) return 0;
      ZSTD_inBuffer in{input_.data(), size_, at_};
      ZSTD_outBuffer to{out, size, 0};
      wanted_ = ::ZSTD_decompressStream(state_.get(), &to, &in);
      if (::ZSTD_isError(wanted_)) corrupt("zstd", ::ZSTD_getErrorName(wanted_));
      at_ = in.pos;
      if (to.pos > 0) return to.pos;
      if (ended && wanted_ != 0) corrupt("zstd", "it ends too early");
    }
  }

 private:
  std::unique_ptr<ZSTD_DStream, decltype(&::ZSTD_freeDStream)> state_;
  size_t wanted_ = 0;  // 0: a frame is done and given out
};

}  // namespace

std::unique_ptr<ByteStream> open_stream(const SourceFile& file, uint64_t begin) {
  check(begin == 0 || file.format == SourceFormat::jsonl, "compressed files are read from their start");
  if (file.format == SourceFormat::jsonl_gzip) return std::make_unique<GzipStream>(file);
  if (file.format == SourceFormat::jsonl_zstd) return std::make_unique<ZstdStream>(file);
  return std::make_unique<PlainStream>(file, begin);
}

LineStream::LineStream(const SourceFile& file, uint64_t begin, uint64_t end)
    : path_(file.path.string()), end_(end), offset_(begin == 0 ? 0 : begin - 1) {
  // A line starts at begin if the byte before it ends one; so the rest of the line of begin - 1 is passed
  // over.
  stream_ = open_stream(file, offset_);
  buffer_.resize(kBuffer);
  if (begin > 0) {
    uint64_t limit = std::exchange(end_, std::numeric_limits<uint64_t>::max());
    std::string_view rest;
    next(rest);
    end_ = limit;
  }
}

bool LineStream::fill() {
  if (ended_) return false;
  if (at_ > 0) {
    std::memmove(buffer_.data(), buffer_.data() + at_, have_ - at_);
    have_ -= at_;
    offset_ += at_;
    at_ = 0;
  }
  if (have_ == buffer_.size()) {
    if (buffer_.size() >= kLongestLine)
      user_error("{}: the line from byte {} on has more than {}; is this JSON lines, one object a line?",
                 path_, offset_, human_bytes(static_cast<double>(kLongestLine)));
    buffer_.resize(buffer_.size() * 2);
  }
  size_t got = stream_->read(buffer_.data() + have_, buffer_.size() - have_);
  have_ += got;
  ended_ = got == 0;
  return got > 0;
}

bool LineStream::next(std::string_view& line) {
  if (offset_ + at_ >= end_) return false;
  size_t searched = 0;
  while (true) {
    const char* from = buffer_.data() + at_ + searched;
    size_t size = have_ - at_ - searched;
    const void* found = size == 0 ? nullptr : std::memchr(from, '\n', size);
    if (found != nullptr) {
      auto length = static_cast<size_t>(static_cast<const char*>(found) - (buffer_.data() + at_));
      line = {buffer_.data() + at_, length};
      line_begin_ = offset_ + at_;
      at_ += length + 1;
      return true;
    }
    searched += size;
    if (!fill()) break;
  }
  if (at_ == have_) return false;
  line = {buffer_.data() + at_, have_ - at_};
  line_begin_ = offset_ + at_;
  at_ = have_;
  return true;
}

uint64_t line_number(const SourceFile& file, uint64_t begin) {
  LineStream lines(file, 0, begin);
  std::string_view line;
  uint64_t number = 1;
  while (lines.next(line)) ++number;
  return number;
}

}  // namespace llmft
