// Files whose errors name them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>

namespace embedtrain {

class FileError : public std::system_error {
  public:
    FileError(int error, const std::string& path)
        : std::system_error(error, std::generic_category(), path), path_(path) {}
    const std::string& path() const { return path_; }

  private:
    std::string path_;
};

// A file to write and read back at any place, by several threads. All of it throws FileError.
class File {
  public:
    // Created, or emptied.
    explicit File(std::string path);
    File(File&& other) noexcept;
    File& operator=(File&& other) noexcept;
    ~File();

    void write(const void* data, std::size_t bytes, std::int64_t at);
    void read(void* data, std::size_t bytes, std::int64_t at) const;
    void truncate(std::int64_t bytes);
    // Takes its name away: the file is gone as soon as it is closed, whatever happens to the process.
    void unlink();
    const std::string& path() const { return path_; }

  private:
    std::string path_;
    int file_ = -1;
};

}  // namespace embedtrain
