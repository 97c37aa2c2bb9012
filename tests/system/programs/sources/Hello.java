// SPDX-License-Identifier: MIT
import java.io.RandomAccessFile;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;

class Hello {
	public static void main(String[] arguments) throws Exception {
		Path path = Path.of("x.bin");
		Files.write(path, new byte[] {1, 2, 3, 4});
		try (RandomAccessFile file = new RandomAccessFile(path.toFile(), "rw"); FileChannel channel = file.getChannel()) {
			System.out.println(channel.map(FileChannel.MapMode.READ_WRITE, 0, 4).getInt());
			System.out.println(channel.transferTo(0, 4, Files.newByteChannel(Path.of("y.bin"),
				java.nio.file.StandardOpenOption.CREATE, java.nio.file.StandardOpenOption.WRITE)));
		}
		System.out.println(Files.exists(Path.of("/nowhere")) + " " + path.toRealPath().getFileName());
		Process child = new ProcessBuilder("echo", "child").redirectErrorStream(true).start();
		System.out.print(new String(child.getInputStream().readAllBytes()));
	}
}
