// Lines of a plain, gzip or zstd file, in constant memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "llmft/data/source_files.hpp"

namespace llmft {

// Bytes in order. read() gives at least one byte, or 0 at the end.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  virtual size_t read(char* out, size_t size) = 0;
};

// begin: where to start (plain files only). UserError: cannot open or read, corrupt or cut compressed data.
std::unique_ptr<ByteStream> open_stream(const SourceFile& file, uint64_t begin);

class LineStream {
 public:
  // Lines that start in bytes [begin, end) of the uncompressed text.
  LineStream(const SourceFile& file, uint64_t begin, uint64_t end);

  // Without the line's end; the last line needs none. Valid until the next call.
  bool next(std::string_view& line);
  // Where the line last given starts.
  uint64_t line_begin() const { return line_begin_; }

 private:
  bool fill();

  std::string path_;
  std::unique_ptr<ByteStream> stream_;
  uint64_t end_;
  std::string buffer_;
  size_t at_ = 0;  // next line in buffer_
  size_t have_ = 0;
  uint64_t offset_;  // of buffer_'s first byte
  uint64_t line_begin_ = 0;
  bool ended_ = false;
};

// 1-based number of the line that starts at this byte of the uncompressed text. Reads the file up to there:
// for error messages.
uint64_t line_number(const SourceFile& file, uint64_t begin);

}  // namespace llmft
